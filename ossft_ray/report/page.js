// Filters and searches the examples. The page is readable without it.
(() => {
  const browser = document.getElementById("browser");
  if (!browser) return;
  const controls = document.getElementById("controls");
  const count = document.getElementById("shown");
  const more = document.getElementById("show-more");
  const pageSize = 30;
  let limit = pageSize;
  const all = [...browser.querySelectorAll("details.example")];
  const texts = all.map((example) => example.textContent.toLowerCase());
  const chosen = (name) => controls.querySelector(`[name="${name}"]`);

  const update = () => {
    const origin = controls.querySelector('[name="origin"]:checked').value;
    const run = chosen("run") ? chosen("run").value : "";
    const words = chosen("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    let matching = 0;
    all.forEach((example, number) => {
      const matches =
        (!origin || example.dataset.origin === origin) &&
        (!run || example.dataset.run === run) &&
        words.every((word) => texts[number].includes(word));
      matching += matches;
      example.hidden = !matches || matching > limit;
    });
    more.hidden = matching <= limit;
    count.textContent = `${Math.min(matching, limit)} of ${matching} matches, ${all.length} on this page`;
  };

  controls.hidden = false;
  controls.addEventListener("input", () => { limit = pageSize; update(); });
  more.addEventListener("click", () => { limit += 2 * pageSize; update(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("open-all").addEventListener("click", () => {
    const visible = all.filter((example) => !example.hidden);
    const open = !visible.every((example) => example.open);
    visible.forEach((example) => { example.open = open; });
  });
  update();
})();

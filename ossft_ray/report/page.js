// Searches answers and examples, and reads curves out. The page is readable without it.
(() => {
  const pageSize = 30;

  const browse = (section) => {
    const controls = section.querySelector("form.controls");
    const more = section.querySelector(".show-more");
    const all = [...section.querySelectorAll("details.example")];
    const texts = all.map((example) => example.textContent.toLowerCase());
    let limit = pageSize;

    const update = () => {
      const kind = controls.querySelector('[name="kind"]:checked').value;
      const run = controls.querySelector('[name="run"]');
      const words = controls.querySelector('[name="words"]').value.toLowerCase().split(/\s+/).filter(Boolean);
      let matching = 0;
      all.forEach((example, number) => {
        const matches =
          (!kind || example.dataset.kind === kind) &&
          (!run || !run.value || example.dataset.run === run.value) &&
          words.every((word) => texts[number].includes(word));
        matching += matches;
        example.hidden = !matches || matching > limit;
      });
      more.hidden = matching <= limit;
      const shown = `${Math.min(matching, limit)} of ${matching} matches, ${all.length} on this page`;
      section.querySelector(".shown").textContent = shown;
    };

    controls.hidden = false;
    controls.addEventListener("input", () => { limit = pageSize; update(); });
    more.addEventListener("click", () => { limit += 2 * pageSize; update(); });
    controls.addEventListener("submit", (event) => event.preventDefault());
    section.querySelector(".open-all").addEventListener("click", () => {
      const visible = all.filter((example) => !example.hidden);
      const open = !visible.every((example) => example.open);
      visible.forEach((example) => { example.open = open; });
    });
    update();
  };

  const readOut = (figure) => {
    const { left, right, low, high, lines } = JSON.parse(figure.dataset.curve);
    const plot = figure.querySelector(".plot");
    const rule = figure.querySelector(".rule");
    const caption = figure.querySelector("figcaption");
    const atRest = [...caption.childNodes];

    plot.addEventListener("pointermove", (event) => {
      const box = plot.querySelector("svg").getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width - left) / (right - left);
      const wanted = low + Math.min(1, Math.max(0, share)) * (high - low);
      const nearest = (points) =>
        points.reduce((best, point) => (Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best));
      const step = nearest(Object.values(lines)[0])[0];
      const parts = Object.entries(lines).flatMap(([name, points]) => {
        const label = document.createElement("span");
        label.className = "dot";
        label.style.setProperty("--colour", `var(--${name === "all" ? "ink" : name})`);
        label.textContent = name;
        const value = document.createElement("span");
        value.className = "value";
        value.append(label, ` ${nearest(points)[1]}`);
        return [" ", value];
      });
      caption.replaceChildren(`step ${Math.round(step)}:`, ...parts);
      const x = box.left - plot.getBoundingClientRect().left;
      rule.style.left = `${x + box.width * (left + (right - left) * (step - low) / (high - low))}px`;
      rule.hidden = false;
    });
    plot.addEventListener("pointerleave", () => { rule.hidden = true; caption.replaceChildren(...atRest); });
  };

  document.querySelectorAll(".browsed").forEach(browse);
  document.querySelectorAll("figure.curve").forEach(readOut);
})();

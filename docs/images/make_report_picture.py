"""Photograph the top of a run's report for the README.

    python docs/images/make_report_picture.py runs/demo

Opens `report.html` in headless Chromium (on Debian: `apt-get install chromium`) and writes `report.png` next to this
script. The picture has few colours, so a palette keeps it far below the 200 kB that a test allows.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1200, 1395  # CSS pixels: the headline and the problems with their histograms
SCALE = 1.25
NUM_COLOURS = 64


def take_picture(report: Path, picture: Path) -> None:
    """Write the top of the page `report` to the PNG file `picture`."""
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder, "page.png")
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--force-device-scale-factor={SCALE}"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={screenshot}", report.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        page = Image.open(screenshot).convert("RGB")
    bottom = next(y for y in range(page.height - 1, 0, -1) if is_blank(page.crop((0, y, page.width, y + 1))))
    page = page.crop((0, 0, page.width, bottom))
    page.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def is_blank(row: Image.Image) -> bool:
    """Whether a row of pixels has one colour, as between two rows of figures."""
    return len(row.getcolors(row.width)) == 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="photograph the top of a run's report")
    parser.add_argument("run", type=Path, help="the run's folder")
    take_picture(parser.parse_args().run / "report.html", Path(__file__).with_name("report.png"))

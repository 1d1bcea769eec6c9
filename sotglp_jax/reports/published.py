"""The paper's numbers, and which of our methods they are of."""

import json
from pathlib import Path

PUBLISHED = json.loads(
    (Path(__file__).parent.parent / "assets" / "published.json").read_text("utf-8")
)
MARK = " †"  # behind the name of a published row
DIFFERENCE = " − †"  # behind that of a row of ours minus published

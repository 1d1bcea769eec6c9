"""The methods of docs/own_method.md, written to where the page says that they are."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "own_method.md"


def write(folder: Path) -> Path:
    """Writes the page's package below a folder, which it returns."""
    (folder / "my_package").mkdir(parents=True)
    page = PAGE.read_text()
    names = re.findall(r"`mine/(my_package/\w+\.py)`", page)
    for name, block in zip(names, re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True):
        (folder / name).write_text(block)
    return folder

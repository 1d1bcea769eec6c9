"""What one request, and all of them together, may ask of the server."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Beyond any of these the answer is 4xx, or 503 where the server is what is short.

    Attributes:
      bytes: of the body of a request.
      pictures: of a request.
      pixels: of a picture, as its header states them.
      seconds: for a body to arrive, and for a picture to be decoded; an answer has twice as many.
      bodies: requests whose bodies are in memory at a time; others wait unread.
    """

    bytes: int = 32 << 20
    pictures: int = 32
    pixels: int = 50_000_000
    seconds: float = 30.0
    bodies: int = 8

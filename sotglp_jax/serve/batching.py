"""Batches of what several requests ask for at about the same time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

WAIT = 0.004  # seconds that the first of a batch waits for others


class Batcher:
    """Gives items of concurrent callers to one function, several at a time and in order.

    While the function runs, in a thread, the next items gather.
    """

    def __init__(self, function: Callable[[list], Sequence], most: int):
        """Makes it; `run` has to be running where it is called.

        Args:
          function: takes up to `most` items and gives a result each.
          most: items of a batch.
        """
        self._function, self._most = function, most
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue()

    async def __call__(self, item: Any) -> Any:
        """The function's result for one item.

        Raises:
          Exception: what the function raised of the batch that the item was in.
        """
        result = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, result))
        return await result

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            first = await self._waiting.get()
            if self._waiting.qsize() + 1 < self._most:
                await asyncio.sleep(WAIT)
            batch = [first]
            while len(batch) < self._most and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._serve([(item, result) for item, result in batch if not result.done()])

    async def _serve(self, batch: list[tuple[Any, asyncio.Future]]) -> None:
        """Answers those who still wait."""
        if not batch:
            return
        items, results = zip(*batch, strict=True)
        try:
            found = await asyncio.to_thread(self._function, list(items))
        except Exception as error:
            for result in results:
                if not result.done():
                    result.set_exception(error)
            return
        for result, value in zip(results, found, strict=True):
            if not result.done():
                result.set_result(value)

"""Captions of another model in place of those that ours is not sure of.

A few frames and a prompt go to any server that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, LM Studio. Whatever
goes wrong there, our caption stays, and the failure is counted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.config import SecondOptions
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.files import read_text
from clipcap_video.video.reader import read_frames_at
from clipcap_video.video.sampling import spread

PROMPT = Path(__file__).with_name("second_opinion.txt")
SIDE = 512  # pixels of a frame's longer side
JPEG_QUALITY = 85
LONGEST = 400  # characters of a caption; what is longer is no sentence about a shot
LONGEST_ANSWER = 200  # tokens, a model's thoughts included


class SecondOpinion:
    """Takes predictions and gives them back, those of too little support with the other model's caption in front.

    counts: what became of the questions. Raises ClipcapError where the openai package is missing, or the prompt.
    """

    def __init__(self, options: SecondOptions) -> None:
        assert options.second_opinion is not None
        assert options.second_model is not None
        self.options = options
        self.counts: Counter[str] = Counter()
        self._openai = _openai()
        self._prompt = read_text(options.second_prompt or PROMPT, "the prompt", "give another --second_prompt").strip()

    def decides(self) -> dict[str, str]:
        """What decides the captions, as far as a log must know to be continued."""
        prompt = hashlib.sha256(self._prompt.encode()).hexdigest()[:16]
        options = self.options
        said = f"{options.second_model} below {options.below}, {options.second_frames} frames, prompt sha256:{prompt}"
        return {"second opinion": said}

    def __call__(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        if not any(map(self._is_doubted, predictions)):
            return list(predictions)
        return asyncio.run(self._all(predictions))

    def _is_doubted(self, prediction: Prediction) -> bool:
        support = prediction.captions[0].support if prediction.captions else None
        return support is not None and support < self.options.below

    def describe(self) -> str:
        """One line about what became of the questions."""
        asked, answered = sum(self.counts.values()), self.counts["answered"]
        failed = "".join(f", {number} {what}" for what, number in sorted(self.counts.items()) if what != "answered")
        kept = "; where it failed ours stay" if failed else ""
        return f"second opinion of {self.options.second_model}: {asked} asked, {answered} answered{failed}{kept}"

    async def _all(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        at_once = asyncio.Semaphore(self.options.second_jobs)
        key = os.environ.get("OPENAI_API_KEY", "none")  # the client asks for one, servers of one's own do not
        async with self._openai.AsyncOpenAI(
            base_url=self.options.second_opinion, api_key=key, timeout=self.options.second_timeout, max_retries=1
        ) as client:
            return await asyncio.gather(*(self._considered(client, at_once, one) for one in predictions))

    async def _considered(self, client: Any, at_once: asyncio.Semaphore, prediction: Prediction) -> Prediction:
        if not self._is_doubted(prediction):
            return prediction
        try:
            async with at_once:
                pictures = await asyncio.to_thread(_pictures, prediction, self.options.second_frames)
                # The client's own limit is on each read: a server that drips would be waited for without end.
                answer = await asyncio.wait_for(self._ask(client, pictures), self.options.second_timeout)
            text = _sentence(answer)
        except Exception as error:  # whatever a server, or the client, makes of it: ours stays
            self.counts[self._kind(error)] += 1
            return prediction
        self.counts["answered"] += 1
        theirs = Caption(text, float("nan"), float("nan"), 0, model=self.options.second_model)
        return replace(prediction, captions=[theirs, *prediction.captions])

    async def _ask(self, client: Any, pictures: Sequence[bytes]) -> Any:
        urls = [f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
        content: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": self._prompt})
        answer = await client.chat.completions.create(
            model=self.options.second_model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=LONGEST_ANSWER,
        )
        return answer.choices[0].message.content

    def _kind(self, error: Exception) -> str:
        if isinstance(error, VideoError):
            return "without frames"
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, self._openai.APITimeoutError)):  # before their kinds
            return "timed out"
        if isinstance(error, self._openai.APIConnectionError):
            return "not reached"
        return f"refused ({error.status_code})" if isinstance(error, self._openai.APIStatusError) else "nonsense"


def second_opinion(options: SecondOptions, captioner: Captioner, settings: DecodingSettings) -> SecondOpinion | None:
    """What `options` ask for, None where they do not. Raises ClipcapError where our captions have no support."""
    if options.second_opinion is None:
        return None
    if not captioner.ranks(settings):
        raise ClipcapError(
            "--second_opinion asks about captions of little support, and this captioner has no consensus network in "
            "use; make one with clipcap-video train-consensus"
        )
    return SecondOpinion(options)


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ClipcapError("a second opinion needs openai; install it with pip install 'clipcap-video[vlm]'") from None
    return openai


def _sentence(answer: Any) -> str:
    """The caption in an answer. Raises ValueError where it is none."""
    if not isinstance(answer, str):
        raise ValueError("no text")
    text = re.sub(r"<think>.*?(</think>|$)", "", answer, flags=re.S)
    text = " ".join(text.split()).strip(" \"'“”*")
    if not re.search(r"\w", text) or len(text) > LONGEST or not text.isprintable():
        raise ValueError("no sentence")
    return text


def _pictures(prediction: Prediction, most: int) -> list[bytes]:
    """JPEGs of frames that our captioner saw, spread evenly. Raises VideoError where there are none."""
    if prediction.path is None or not prediction.timestamps:
        raise VideoError("no frames are known")
    times = [prediction.timestamps[index] for index in spread(len(prediction.timestamps), most)]
    pictures = [picture for picture in read_frames_at(Path(prediction.path), times, _jpeg) if picture is not None]
    if not pictures:
        raise VideoError("no frame can be read")
    return pictures


def _jpeg(image: np.ndarray) -> bytes:
    """image: uint8 RGB [H, W, 3]; scaled down to SIDE pixels."""
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()

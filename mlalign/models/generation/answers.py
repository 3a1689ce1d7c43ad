"""Candidates for shards of prompts: rendering, requests to the engine, and rows of its answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlalign.core import languages, rows, store
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.models import engine, leftout
from mlalign.models.engine import PROMPT_TOO_LONG, Request, Response, Sampling, chat
from mlalign.models.generation import config
from mlalign.models.generation.config import SAME, GenerationConfig
from mlalign.models.templates import ChatTemplate

TOGETHER = 4096  # shards go to the engine together until they hold this many requests


@dataclasses.dataclass
class Prompt:
    """A row, and what of it goes to the engine.

    `opened`: the rendered prompt ends with the opening reasoning tag.
    `left_out`: the chat template leaves something of it out.
    """

    row: Mapping[str, Any]
    messages: list[dict]
    token_ids: list[int] | None = None
    opened: bool = False
    left_out: bool = False

    def request(self, identifier: str) -> Request:
        messages = self.messages if self.token_ids is None else None
        return Request(identifier, rows.seed_of(identifier), self.token_ids, messages)


class Generation:
    """Asks a model for answers. Tokenizer, context and engine are opened at their first use.

    `sampler` is the fingerprint that the answers' ids derive from. `ahead` are the shards that are
    still to be computed. Set both before `shard` is called.
    """

    def __init__(self, cfg: GenerationConfig, model: Model):
        self.cfg = cfg
        self.model = model
        self.sampler = ""
        self.ahead: list[Path] = []
        self.traits = engine.ENGINES[cfg.engine.name]
        identity = config.identity(cfg)
        self.chat_template = identity["chat_template"]
        self.response_lang = identity["response_lang"]
        # Shards that went to the engine with an earlier one: prompts, and answers by id.
        self._answered: dict[Path, tuple[list[Prompt], dict[str, Response]]] = {}

    # ------------------------------------------------------------------------ opened at first use

    @cached_property
    def template(self) -> ChatTemplate | None:
        """What renders the prompts; None if the engine takes messages."""
        if self.traits.takes == "messages":
            return None
        tokenizer = chat.load_tokenizer(self.model, self.chat_template)
        return ChatTemplate(tokenizer, self.cfg.chat_template_kwargs, self.cfg.date)

    @cached_property
    def sampling(self) -> Sampling:
        cfg = self.cfg
        end_tokens: Sequence[int] = ()
        stop = list(cfg.stop)
        if self.template is not None:
            end_tokens, template_stops = chat.stops_of(self.template)
            stop += template_stops

        extra = dict(cfg.sampling)
        if self.traits.takes == "messages" and cfg.chat_template_kwargs:
            extra["chat_template_kwargs"] = cfg.chat_template_kwargs
        return Sampling(
            cfg.max_tokens,
            cfg.temperature,
            cfg.top_p,
            cfg.top_k,
            cfg.min_p,
            stop,
            extra,
            end_tokens=end_tokens,
        )

    @cached_property
    def reasoning_tags(self) -> Sequence[str]:
        """The configured tags, else those of the template."""
        if self.cfg.reasoning_tags is not None:
            return self.cfg.reasoning_tags
        if self.template is None:
            return ()
        return self.template.reasoning_tags or ()

    @cached_property
    def max_model_len(self) -> int | None:
        """Most tokens of prompt and answer together; None if no bound is known.

        Raises: UserError if `max_tokens` leaves no room for a prompt.
        """
        cfg = self.cfg
        if self.traits.takes == "messages":
            return None
        context = cfg.engine.args.get("max_model_len") or chat.context_length(self.model)
        bounds = [] if context is None else [context]
        if cfg.max_prompt_tokens is not None:
            bounds.append(cfg.max_prompt_tokens + cfg.max_tokens)
        if not bounds:
            return None

        bound = min(bounds)
        if bound <= cfg.max_tokens:
            raise UserError(
                f"max_tokens: {cfg.max_tokens} leaves no room for a prompt in a context of"
                f" {bound} tokens; lower it"
            )
        return bound

    @cached_property
    def opened(self) -> engine.Engine:
        return engine.open_engine(self.cfg.engine, self.model, self.max_model_len)

    def close(self) -> None:
        if "opened" in self.__dict__:
            self.opened.close()

    def template_facts(self) -> dict[str, Any]:
        """How prompts were rendered, for the manifest; in detail if any was rendered here."""
        if self.traits.takes == "messages":
            return {"rendered_by": "server"}
        if "template" not in self.__dict__ or self.template is None:
            return {"rendered_by": "mlalign", "date": self.cfg.date}
        return {**self.template.facts(), "reasoning_tags": list(self.reasoning_tags)}

    # ------------------------------------------------------------------------------------- shards

    def shard(self, source: Path, target: Path, tally: store.Tally) -> None:
        """Write the candidates for the prompts of one shard, in the order of its rows."""
        if source not in self._answered:
            self._ask(source)
        prompts, answers = self._answered.pop(source)

        candidates = []
        for prompt in prompts:
            row = self._candidates(prompt, answers, tally)
            if row is not None:
                candidates.append(row)
        if candidates:
            rows.write_shard(target, "candidates", candidates)

    def _ask(self, source: Path) -> None:
        """Send a shard to the engine, together with the small ones that follow."""
        prompts: dict[Path, list[Prompt]] = {}
        requests: dict[Path, list[Request]] = {}
        n_requests = 0
        for path in [source, *self._following(source)]:
            prompts[path] = self._render(rows.read_shard(path))
            requests[path] = self._requests_of_shard(prompts[path])
            n_requests += len(requests[path])
            if n_requests >= TOGETHER:
                break

        sent = [request for of_shard in requests.values() for request in of_shard]
        responses = iter(self.opened.generate(sent, self.sampling) if sent else [])
        for path, of_shard in requests.items():
            answers = {request.id: next(responses) for request in of_shard}
            self._answered[path] = prompts[path], answers

    def _following(self, source: Path) -> list[Path]:
        """The shards that may go to the engine along with this one.

        None where a text may depend on what else is in its batch.
        """
        if not self.traits.seed_guarantee or source not in self.ahead:
            return []
        return self.ahead[self.ahead.index(source) + 1 :]

    def _requests_of_shard(self, prompts: Sequence[Prompt]) -> list[Request]:
        """The requests of all prompts that fit, in the order of the rows' ids."""
        requests = []
        fitting = list(filter(self.fits, prompts))
        for prompt in sorted(fitting, key=lambda prompt: prompt.row["id"]):
            requests += [prompt.request(identifier) for identifier in self._ids(prompt)]
        return requests

    def _ids(self, prompt: Prompt) -> list[str]:
        row_id = prompt.row["id"]
        numbers = range(self.cfg.n)
        return [rows.candidate_id(row_id, self.sampler, number) for number in numbers]

    def fits(self, prompt: Prompt, max_tokens: int | None = None) -> bool:
        """Whether a prompt leaves room for an answer of `max_tokens`, by default the step's."""
        if self.max_model_len is None:
            return True
        answer = self.cfg.max_tokens if max_tokens is None else max_tokens
        return len(prompt.token_ids or ()) <= self.max_model_len - answer

    # ---------------------------------------------------------------------------------- rendering

    def asked_language(self, row: Mapping) -> str:
        """The language that the answer to a row is asked for in."""
        return row["prompt_lang"] if self.response_lang == SAME else self.response_lang

    def messages_of(self, row: Mapping) -> list[dict]:
        """The row's messages below the system prompt; its own system messages join that."""
        if self.cfg.system_prompt is None:
            return row["prompt"]
        language = languages.english_name(self.asked_language(row))
        system = [self.cfg.system_prompt.replace("{language}", language)]
        others = []
        for message in row["prompt"]:
            if message["role"] == "system":
                system.append(message["content"])
            else:
                others.append(message)
        return [{"role": "system", "content": "\n\n".join(system)}, *others]

    def _render(self, prompt_rows: Sequence[dict]) -> list[Prompt]:
        prompts = [Prompt(row, self.messages_of(row)) for row in prompt_rows]
        if self.template is None:
            return prompts
        texts = []
        for prompt in prompts:
            place = f"row {prompt.row['id']} ({prompt.row['prompt_lang']})"
            texts.append(self.template.prompt(prompt.messages, place))
        token_ids = chat.token_ids(self.template.tokenizer, texts)
        for prompt, text, ids in zip(prompts, texts, token_ids, strict=True):
            self.rendered(prompt, text, ids)
        return prompts

    def rendered(self, prompt: Prompt, text: str, token_ids: list[int]) -> None:
        """Note how a prompt was rendered."""
        opening = self.reasoning_tags[:1]
        prompt.token_ids = token_ids
        prompt.opened = bool(opening) and text.rstrip().endswith(opening[0])
        prompt.left_out = not leftout.of_prompt(text, prompt.messages, None)

    # -------------------------------------------------------------------------------------- rows

    def _candidates(
        self,
        prompt: Prompt,
        answers: Mapping[str, Response],
        tally: store.Tally,
    ) -> dict | None:
        """The row of one prompt; None, and counted, if it does not fit the context."""
        row = prompt.row
        language = row["prompt_lang"]
        own_ids = [identifier for identifier in self._ids(prompt) if identifier in answers]
        own = {identifier: answers[identifier] for identifier in own_ids}
        refused = any(answer.finish_reason == PROMPT_TOO_LONG for answer in own.values())
        if refused or not own:
            tally.drop(PROMPT_TOO_LONG, language)
            return None

        tally.keep(language)
        if prompt.left_out:
            tally.add("prompt_partly_left_out", language)
        responses = []
        for identifier, answer in own.items():
            responses.append(self.response(identifier, answer, prompt.opened, language, tally))
        common = {name: row[name] for name in rows.COMMON}
        return {
            **common,
            "prompt": prompt.messages,
            "reference": row.get("reference"),
            "response_lang_requested": self.asked_language(row),
            "responses": responses,
        }

    def response(
        self,
        identifier: str,
        answer: Response,
        opened: bool,
        language: str,
        tally: store.Tally,
    ) -> dict[str, Any]:
        """An answer as it stands in the column `responses`; what it is like is counted."""
        text, reasoning = chat.split_reasoning(answer.text, self.reasoning_tags, opened)
        tally.add("responses", language)
        if reasoning or answer.reasoning:
            tally.add("with_reasoning", language)
        if answer.cut_character:
            tally.add("cut_characters", language)
        tally.add("truncated", language, answer.finish_reason == "length")
        tally.add("empty", language, not text.strip())
        if answer.n_tokens is None:
            tally.add("responses_without_token_count", language)
        else:
            tally.add("tokens", language, answer.n_tokens)
        return {
            "candidate_id": identifier,
            "text": text,
            "reasoning": answer.reasoning if reasoning is None else reasoning,
            "n_tokens": answer.n_tokens,
            "finish_reason": answer.finish_reason,
        }

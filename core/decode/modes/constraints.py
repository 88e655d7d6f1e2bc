"""Constraints on what a beam must say, and how far a sequence has fulfilled them.

The rules are those of `ConstraintListState` in transformers 4.51: constraints are worked on one at a time; a token
that breaks the one in progress puts it back behind the others; the prompt's own tokens count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from core.contract.errors import ParameterError
from core.contract.params import GenerationParams, Phrase


@dataclass(frozen=True, slots=True)
class Constraint:
    """One of these phrases must be said; none of them begins with another."""

    phrases: tuple[Phrase, ...]

    @property
    def height(self) -> int:
        """Tokens of the longest phrase."""
        return max(map(len, self.phrases))

    def next_tokens(self, said: Phrase) -> list[int]:
        """The tokens that go on after `said`, in the order of the phrases; empty where a phrase is complete."""
        n = len(said)
        found = (phrase[n] for phrase in self.phrases if len(phrase) > n and phrase[:n] == said)
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sequence is. `pending` and `done` are numbers of constraints; `current` has its first tokens `said`."""

    constraints: tuple[Constraint, ...]
    pending: tuple[int, ...]
    done: tuple[int, ...] = ()
    current: int | None = None
    said: Phrase = ()

    @property
    def completed(self) -> bool:
        """Whether nothing is left to say."""
        return len(self.done) == len(self.constraints)

    @property
    def bank(self) -> int:
        """Tokens fulfilled of all constraints, each counted as long as the longest of them."""
        height = max(c.height for c in self.constraints)
        begun = 0 if self.current is None else height - self.constraints[self.current].height + len(self.said)
        return len(self.done) * height + begun

    @property
    def fulfilled(self) -> tuple[int, ...]:
        """Tokens fulfilled of each constraint."""
        begun = {self.current: len(self.said)}
        return tuple(
            c.height if number in self.done else begun.get(number, 0) for number, c in enumerate(self.constraints)
        )

    @property
    def needed(self) -> tuple[int, ...]:
        """Tokens of each constraint."""
        return tuple(c.height for c in self.constraints)

    @property
    def missing(self) -> int:
        """The fewest tokens with which the rest could be said."""
        begun = 0
        if self.current is not None:
            phrases = self.constraints[self.current].phrases
            begun = min(len(p) - len(self.said) for p in phrases if p[: len(self.said)] == self.said)
        return begun + sum(min(map(len, self.constraints[number].phrases)) for number in self.pending)

    def next_tokens(self) -> list[int]:
        """The tokens that would fulfil more."""
        if self.current is not None:
            return self.constraints[self.current].next_tokens(self.said)
        return [token for number in self.pending for token in self.constraints[number].next_tokens(())]

    def add(self, token_id: int) -> Progress:
        """After one more token."""
        if self.completed:
            return self
        if self.current is not None:
            if token_id in self.constraints[self.current].next_tokens(self.said):
                return self._say(self.current, (*self.said, token_id))
            return replace(self, pending=(*self.pending, self.current), current=None, said=())
        for number in self.pending:
            if token_id in self.constraints[number].next_tokens(()):
                left = tuple(other for other in self.pending if other != number)
                return replace(self, pending=left)._say(number, (token_id,))
        return self

    def _say(self, number: int, said: Phrase) -> Progress:
        if self.constraints[number].next_tokens(said):
            return replace(self, current=number, said=said)
        return replace(self, done=(*self.done, number), current=None, said=())


def begin_progress(params: GenerationParams, vocab_size: int, prompt: Phrase) -> Progress:
    """How far the prompt is. Raises `ParameterError` where the constraints cannot be fulfilled."""
    constraints = tuple(_constraint(given) for given in params.force_words_ids)
    for constraint in constraints:
        _check_tokens(constraint, params, vocab_size)
    start = Progress(constraints, tuple(range(len(constraints))))
    progress = reduce(Progress.add, prompt, start)
    if progress.missing > params.max_new_tokens:
        raise ParameterError(
            f"force_words_ids asks for at least {progress.missing} tokens, but max_new_tokens is "
            f"{params.max_new_tokens}; raise it or force less."
        )
    return progress


def _constraint(given: Phrase | tuple[Phrase, ...]) -> Constraint:
    phrases = tuple(dict.fromkeys(part if isinstance(part, tuple) else given for part in given))
    for phrase in phrases:
        for other in phrases:
            if other != phrase and other[: len(phrase)] == phrase:
                raise ParameterError(
                    f"In force_words_ids the phrase {list(other)} begins with another of its alternatives, "
                    f"{list(phrase)}; leave one of them out."
                )
    return Constraint(phrases)  # type: ignore[arg-type]  # each part of a phrase is a number, each of a list a phrase


def _check_tokens(constraint: Constraint, params: GenerationParams, vocab_size: int) -> None:
    never = {*params.suppress_tokens, *params.eos_token_id}
    for phrase in constraint.phrases:
        unknown = next((token for token in phrase if token >= vocab_size), None)
        if unknown is not None:
            raise ParameterError(f"Token id {unknown} in force_words_ids does not exist; there are {vocab_size:,}.")
    if all(never & set(phrase) or _has_bad_words(phrase, params) for phrase in constraint.phrases):
        raise ParameterError(
            f"The phrase {list(constraint.phrases[0])} in force_words_ids cannot be said: it has tokens that end the "
            "text or that suppress_tokens or bad_words_ids forbids; leave it out."
        )


def _has_bad_words(phrase: Phrase, params: GenerationParams) -> bool:
    """Whether a sequence of `bad_words_ids` is in it."""
    return any(
        phrase[start : start + len(bad)] == tuple(bad)
        for bad in params.bad_words_ids
        for start in range(len(phrase) - len(bad) + 1)
    )

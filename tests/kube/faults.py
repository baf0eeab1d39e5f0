"""What goes wrong on order: requests that are refused, lost or late, and watches that are not what they seem.

Rates are drawn from a seeded generator, so a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tests.kube.calls import Call
from tests.kube.status import MODIFIED, Refusal


class Fault(StrEnum):
    """What becomes of a request."""

    UNAVAILABLE = "unavailable"
    """503, not carried out."""
    LIMITED = "limited"
    """429 with ``Retry-After``, not carried out."""
    ERROR = "error"
    """500, not carried out."""
    CONFLICT = "conflict"
    """409 Conflict, not carried out."""
    FORBIDDEN = "forbidden"
    """403 as RBAC says it, not carried out."""
    UNAUTHORIZED = "unauthorized"
    """401, not carried out."""
    TIMEOUT = "timeout"
    """504, not carried out."""
    LOST = "lost"
    """Not carried out and never answered; the connection stays open."""
    RESET = "reset"
    """Not carried out; the connection is cut."""
    DONE_TIMEOUT = "done-timeout"
    """Carried out, and answered with 504."""
    DONE_LOST = "done-lost"
    """Carried out and never answered; the connection stays open."""
    DONE_RESET = "done-reset"
    """Carried out; the connection is cut before the answer."""
    SLOW = "slow"
    """Carried out after ``delay`` seconds."""


DONE = (Fault.DONE_TIMEOUT, Fault.DONE_LOST, Fault.DONE_RESET)


@dataclass
class Rule:
    """Which requests meet a fault, and which one."""

    kind: Fault
    verb: str = ""
    """``create``, ``update``… or several, separated by ``|``. Empty: any."""
    resource: str = ""
    """``services``, ``pods/log``…; empty: any."""
    group: str | None = None
    namespace: str = ""
    name: str = ""
    rate: float = 1.0
    """Of the requests that match."""
    count: int | None = None
    """How many it hits at most."""
    retry_after: int | None = None
    """Seconds; by default 1 where the API always says so (429) and nothing elsewhere."""
    delay: float = 1.0
    """Seconds, for `Fault.SLOW`."""
    hits: int = 0
    removed: bool = False

    def meets(self, call: Call) -> bool:
        resource = call.rule[1]
        return (
            not self.removed
            and bool(call.verb)
            and (self.count is None or self.hits < self.count)
            and (not self.verb or call.verb in self.verb.split("|"))
            and (not self.resource or resource == self.resource)
            and (self.group is None or call.group == self.group)
            and (not self.namespace or call.namespace == self.namespace)
            and (not self.name or call.name == self.name)
        )

    def remove(self) -> None:
        self.removed = True

    def __enter__(self) -> Rule:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def refusal(self, call: Call) -> Refusal | None:
        """What it answers, if it answers."""
        wait = self.retry_after
        match self.kind:
            case Fault.UNAVAILABLE:
                return Refusal(
                    503, "ServiceUnavailable", "the server is currently unable to handle the request", {}, wait
                )
            case Fault.LIMITED:
                message = "the server has received too many requests and has asked us to try again later"
                return Refusal(429, "TooManyRequests", message, {}, 1 if wait is None else wait)
            case Fault.ERROR:
                message = "Internal error occurred: etcdserver: leader changed"
                return Refusal(500, "InternalError", message, {"causes": [{"message": message}]}, wait)
            case Fault.CONFLICT:
                message = f'Operation cannot be fulfilled on {call.resource} "{call.name}": {MODIFIED}'
                return Refusal(409, "Conflict", message, {"name": call.name, "kind": call.resource})
            case Fault.FORBIDDEN:
                return no_rule(call)
            case Fault.UNAUTHORIZED:
                return Refusal(401, "Unauthorized", "Unauthorized")
            case Fault.TIMEOUT | Fault.DONE_TIMEOUT:
                message = "Timeout: request did not complete within the allotted timeout"
                return Refusal(504, "Timeout", message, {"retryAfterSeconds": wait or 0}, wait)
            case _:
                return None


def no_rule(call: Call) -> Refusal:
    """What RBAC says to a call that no Role allows."""
    resource = call.rule[1]
    where = f' in the namespace "{call.namespace}"' if call.namespace else " at the cluster scope"
    name = f' "{call.name}"' if call.name else ""
    qualified = f"{call.resource}.{call.group}" if call.group else call.resource
    message = (
        f'{qualified}{name} is forbidden: User "system:serviceaccount:{call.namespace or "default"}:default" cannot '
        f'{call.verb} resource "{resource}" in API group "{call.group}"{where}'
    )
    return Refusal(403, "Forbidden", message, {"name": call.name, "group": call.group, "kind": call.resource})


@dataclass
class WatchFaults:
    """What is wrong with watches from now on, those that are open included."""

    deaf: bool = False
    """They stay open and say nothing: no events, no bookmarks, no end."""
    cut_every: float | None = None
    """Seconds after which each is cut off in mid-air."""
    duplicate: float = 0.0
    """The rate of events that are sent twice."""
    stale: float = 0.0
    """The rate of events that are followed by an older event of the same object."""
    reorder: float = 0.0
    """The rate of events that change places with the next one, if that is of another object."""


@dataclass
class Faults:
    """The table of faults."""

    seed: int = 0
    rules: list[Rule] = field(default_factory=list)
    watches: WatchFaults = field(default_factory=WatchFaults)
    changed: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def add(
        self,
        kind: Fault | str,
        *,
        verb: str = "",
        resource: str = "",
        group: str | None = None,
        namespace: str = "",
        name: str = "",
        rate: float = 1.0,
        count: int | None = None,
        retry_after: int | None = None,
        delay: float = 1.0,
    ) -> Rule:
        """Have requests that match meet a fault, until the rule that is returned is removed (or its ``with`` block ends).
        Rules are tried in the order in which they came; the first that strikes counts."""
        rule = Rule(Fault(kind), verb, resource, group, namespace, name, rate, count, retry_after, delay)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        self.rules.clear()
        self.watches.__init__()  # type: ignore[misc]

    def strike(self, call: Call) -> Rule | None:
        for rule in self.rules:
            if rule.meets(call) and (rule.rate >= 1 or self.random.random() < rule.rate):
                rule.hits += 1
                return rule
        return None

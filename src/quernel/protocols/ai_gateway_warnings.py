"""Warnings in replies of the AI SDK's gateway protocol: neutral here, and in the form of a version when written.

The clients check them strictly: a kind that their version does not have makes the whole reply unreadable.

Source: `gatewayEmbeddingWarningSchema` in `packages/gateway/src/gateway-embedding-model.ts` of
https://github.com/vercel/ai, versions 3.0.232 and 4.0.146; version 2 passes over warnings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct

Version: TypeAlias = Literal["2", "3", "4"]
"""A version of the protocol, as its headers name it."""

MAX_POSITIONS = 10
"""Positions that a warning names."""


class WarningKind(StrEnum):
    """What a warning is about."""

    UNSUPPORTED = "unsupported"
    """Something was asked for that changes nothing."""
    COMPATIBILITY = "compatibility"
    """Something was done in another way than it was asked for."""
    DEPRECATED = "deprecated"
    """There is a better way to ask for it."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class GatewayWarning:
    """Something that the caller of an answered request should know.

    Attributes:
        kind: What it is about.
        message: What there is to know.
        subject: The option or feature that it is about; `None` for `OTHER`.
    """

    kind: WarningKind
    message: str
    subject: str | None = None


class GatewayWarningReply(Struct, kw_only=True, omit_defaults=True):
    """A warning. `unsupported` and `compatibility` are about a feature, `deprecated` is about a setting."""

    type: str
    feature: str | None = None
    details: str | None = None
    setting: str | None = None
    message: str | None = None


KINDS: Mapping[str, WarningKind] = {kind.value: kind for kind in WarningKind}


def cut_warnings(truncated: Sequence[bool], noun: str) -> Iterable[GatewayWarning]:
    """A warning that says which texts were cut, if any were."""
    cut = [index for index, was_cut in enumerate(truncated) if was_cut]
    if cut:
        positions = ", ".join(map(str, cut[:MAX_POSITIONS]))
        more = f" and {len(cut) - MAX_POSITIONS} more" if len(cut) > MAX_POSITIONS else ""
        yield GatewayWarning(WarningKind.OTHER, f"Some {noun} were cut, being too long: {positions}{more} (from 0).")


def encode_warning(warning: GatewayWarning, version: Version) -> GatewayWarningReply:
    """The form that a warning has in a version."""
    kind, subject = warning.kind, warning.subject
    if kind is WarningKind.OTHER or subject is None:
        return GatewayWarningReply(type=WarningKind.OTHER, message=warning.message)
    if kind is not WarningKind.DEPRECATED:
        return GatewayWarningReply(type=kind, feature=subject, details=warning.message)
    if version == "4":
        return GatewayWarningReply(type=kind, setting=subject, message=warning.message)
    # Before version 4 this kind makes the whole reply unreadable.
    return GatewayWarningReply(type=WarningKind.OTHER, message=f"{subject}: {warning.message}")


def decode_warning(wire: GatewayWarningReply) -> GatewayWarning:
    """What a warning of another gateway says, whichever form it has."""
    return GatewayWarning(
        KINDS.get(wire.type, WarningKind.OTHER), wire.message or wire.details or "", wire.feature or wire.setting
    )

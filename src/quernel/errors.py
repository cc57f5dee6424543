"""The error tree, branched by who can act.

    QuernelError
    ├── InvalidRequestError        the caller changes the request            HTTP 400
    │   ├── EmptyInputError
    │   ├── InputTooLongError
    │   ├── InvalidDimensionsError
    │   ├── TokenIdRangeError
    │   ├── ForeignTokenIdsError   token ids of another model's tokenizer
    │   ├── AuthenticationError    no key, or a wrong one                    HTTP 401
    │   ├── PermissionDeniedError  not with this key                         HTTP 403
    │   ├── ModelNotFoundError     no such model here                        HTTP 404
    │   ├── BodyTooLargeError      the body is over the server's limit       HTTP 413
    │   ├── NotFoundError          no such thing (a key, an account) here    HTTP 404
    │   ├── ConflictError          it is there already, or was changed since HTTP 409
    │   ├── InsufficientCreditError  the account or key has spent its money  HTTP 402
    │   └── NoRouteError           no provider fits what the request demands
    ├── ModelLoadError             the operator changes the model or a file   HTTP 400
    │   ├── UnsupportedModelError  not a Qwen3 embedding model or reranker
    │   ├── ConfigError            config.json is missing, broken or contradictory
    │   ├── CheckpointError        weights are missing, broken, misshapen or unexpected
    │   ├── TokenizerError         tokenizer.json is missing, broken or does not fit the model
    │   └── DownloadError          the hub could not give the files
    ├── SettingsError              the operator changes a flag, variable or file key  HTTP 400
    ├── UnavailableError           the same request may succeed later        HTTP 503
    │   ├── OverloadedError        the queue is full                         HTTP 429
    │   ├── LimitExceededError     a key's or account's requests or tokens   HTTP 429
    │   ├── ProviderError          the provider of a gateway failed          HTTP 502
    │   ├── ModelNotReadyError     the model is being loaded, or failed to
    │   ├── DeadlineExceededError  the request's time is over                HTTP 504
    │   └── EngineClosedError      the engine is shutting down
    └── InternalError              ours to mend                              HTTP 500
        └── NonFiniteError         a result was NaN or infinite, in float32 too

Every error has a stable `code`; which HTTP status it becomes is `status`. A message names the value at fault;
`hint` says the way out; `param` names the request field or setting, where there is one.
"""

from enum import StrEnum
from typing import ClassVar


class QuernelError(Exception):
    """Any error that Quernel raises on purpose.

    Args:
        message: What is wrong, with the value at fault.
        param: The request field, setting or file that it is about.
        hint: What to do about it, as one sentence.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidRequestError(QuernelError):
    """The request cannot be answered as it is; the caller changes it."""

    code = "invalid_request"
    status = 400


class EmptyInputError(InvalidRequestError):
    """A list that must hold something holds nothing (an empty *text* is fine: it is the end token alone)."""

    code = "empty_input"


class InputTooLongError(InvalidRequestError):
    """A text has more tokens than the model reads, and `truncate` does not allow a cut."""

    code = "input_too_long"


class InvalidDimensionsError(InvalidRequestError):
    """`dimensions` is outside what the model offers."""

    code = "invalid_dimensions"


class TokenIdRangeError(InvalidRequestError):
    """A token id is not in the model's vocabulary."""

    code = "token_id_out_of_range"


class ForeignTokenIdsError(InvalidRequestError):
    """Token ids that another model's tokenizer made: read as this model's they are another text."""

    code = "foreign_token_ids"


class AuthenticationError(InvalidRequestError):
    """The request has no API key, or one that is not known here."""

    code = "invalid_api_key"
    status = 401


class PermissionDeniedError(InvalidRequestError):
    """The key of the request does not open this route."""

    code = "permission_denied"
    status = 403


class ModelNotFoundError(InvalidRequestError):
    """No model of that name and kind is served here."""

    code = "model_not_found"
    status = 404


class BodyTooLargeError(InvalidRequestError):
    """The body of the request is larger than the server takes."""

    code = "body_too_large"
    status = 413


class NotFoundError(InvalidRequestError):
    """What a request names (a key, an account, a generation) is not here, or not for this key to see."""

    code = "not_found"
    status = 404


class ConflictError(InvalidRequestError):
    """What a request would make is there already, or its idempotency key stands for another request."""

    code = "conflict"
    status = 409


class InsufficientCreditError(InvalidRequestError):
    """The account's balance, or a budget of its key, does not cover the request."""

    code = "insufficient_credits"
    status = 402


class NoRouteError(InvalidRequestError):
    """No provider of the gateway fits what the request demands (zero data retention, region, dimensions, ...)."""

    code = "no_route"


class ModelLoadError(QuernelError):
    """A model cannot be loaded; the operator changes the model, its files or the settings."""

    code = "model_load_failed"
    status = 400


class UnsupportedModelError(ModelLoadError):
    """The checkpoint is not a Qwen3 embedding model or reranker."""

    code = "unsupported_model"


class ConfigError(ModelLoadError):
    """`config.json` or a side file is missing, broken or contradictory."""

    code = "invalid_config"


class CheckpointError(ModelLoadError):
    """The weight files are missing, broken, or do not hold the tensors that the configuration asks for."""

    code = "invalid_checkpoint"


class TokenizerError(ModelLoadError):
    """`tokenizer.json` is missing, broken, or does not fit the model."""

    code = "invalid_tokenizer"


class DownloadError(ModelLoadError):
    """The hub could not give the files: no such repository, no network, no permission."""

    code = "download_failed"


class SettingsError(QuernelError):
    """A flag, environment variable or file key is wrong; the operator changes it."""

    code = "invalid_settings"
    status = 400


class UnavailableError(QuernelError):
    """The request was fine and may succeed later.

    Attributes:
        retry_after: Seconds after which it may, where that is known.
    """

    code = "unavailable"
    status = 503
    retry_after: float | None = None


class OverloadedError(UnavailableError):
    """The queue is full."""

    code = "overloaded"
    status = 429


class LimitExceededError(UnavailableError):
    """A key or account has used up the requests or tokens of its minute or month."""

    code = "rate_limit_exceeded"
    status = 429


class FailureKind(StrEnum):
    """How a provider failed."""

    TIMEOUT = "timeout"
    """It did not answer in time."""
    UNREACHABLE = "unreachable"
    """The connection could not be made, or broke."""
    RATE_LIMITED = "rate_limited"
    """It has no room for us now (429)."""
    CREDENTIALS = "credentials"
    """It refuses the key, or the key's account has no money (401, 402, 403)."""
    REFUSED = "refused"
    """It finds fault with the request itself (other 4xx)."""
    FAILED = "failed"
    """A fault of its own (5xx)."""
    BAD_REPLY = "bad_reply"
    """It answered what cannot be used: no JSON, a wrong count or dimension, NaN."""


class ProviderError(UnavailableError):
    """A provider of the gateway failed.

    Attributes:
        kind: How.
        upstream_status: What it answered; `None` where it did not answer.
    """

    code = "provider_failed"
    status = 502

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind = FailureKind.FAILED,
        upstream_status: int | None = None,
        retry_after: float | None = None,
        param: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, param=param, hint=hint)
        self.kind = kind
        self.upstream_status = upstream_status
        self.retry_after = retry_after


class ModelNotReadyError(UnavailableError):
    """The model is being loaded, or could not be."""

    code = "model_not_ready"


class DeadlineExceededError(UnavailableError):
    """The time that the request was given is over."""

    code = "deadline_exceeded"
    status = 504


class EngineClosedError(UnavailableError):
    """The engine is shutting down or has stopped."""

    code = "engine_closed"


class InternalError(QuernelError):
    """A fault of ours."""

    code = "internal_error"


class NonFiniteError(InternalError):
    """A result was NaN or infinite even when computed in float32; it is never handed out."""

    code = "non_finite_result"

"""The tables of agents' calls."""

from __future__ import annotations

from trajrec.corpus.index.table import EPISODE_ID, KIND, Table

ATTEMPTS = Table(
    "attempts",
    "one attempt at a tool call",
    ("episode_id", "step", "call", "attempt"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "its step"),
        ("call", "INTEGER", "number of the call in its step, from 0"),
        ("attempt", "INTEGER", "number of the attempt, from 0"),
        ("tool", "VARCHAR", "the tool"),
        ("call_id", "VARCHAR", "id that the model gave the call; NULL if it gave none"),
        ("arguments", "JSON", "its arguments"),
        ("access", "VARCHAR", "declared access of the tool: read, write, external or unknown"),
        ("invalid", "VARCHAR", "why the call was invalid (unknown tool); NULL if it was valid"),
        (
            "outcome",
            "VARCHAR",
            "ok, error, timeout or cancelled; open if log or episode ends before it; unknown if only"
            " model calls or an imported record tell of it, and do not say whether it failed",
        ),
        ("result", "JSON", "its result; NULL if it raised, or if there is none"),
        ("is_raised", "BOOLEAN", "whether its error was raised and not returned"),
        ("error_type", "VARCHAR", "class of the exception; NULL if there was none"),
        ("message", "VARCHAR", "error message; NULL if there was no error"),
        (
            "latency_ms",
            "DOUBLE",
            "its duration; NULL if it is open, a time is unknown, or the clock was put back meanwhile",
        ),
        ("backoff_ms", "DOUBLE", "wait before it"),
        (
            "retry_by",
            "VARCHAR",
            "who retried: agent, scaffold, transport or harness; NULL if it is no retry",
        ),
        ("retry_of_step", "INTEGER", "step of the attempt that it retries"),
        ("retry_of_call", "INTEGER", "call of the attempt that it retries"),
        (
            "followed_by_step",
            "INTEGER",
            "step of the next call of the tool after this failed one, if it is no retry; else NULL",
        ),
        ("followed_by_call", "INTEGER", "call of the same"),
        (
            "argument_changes",
            "JSON",
            "changes of the arguments since the retried attempt: [JSON Pointer, before, after,"
            " typed keys]",
        ),
        (
            "state_digest",
            "VARCHAR",
            "digest of the watched state after it, as in checks; NULL if unknown, or if nothing was"
            " watched",
        ),
        ("finding", "VARCHAR", "contradictions, e.g. a tool declared as read wrote; else NULL"),
        ("is_redacted", "BOOLEAN", "whether secrets were removed from it"),
        ("actor", "VARCHAR", "who called: agent, user (or a simulated one), env or scaffold"),
        ("started_at", "TIMESTAMP", "time of its start, UTC; NULL if unknown"),
        ("extra", "JSON", "facts of an imported record without a column; NULL if there are none"),
    ),
)
MODEL_CALLS = Table(
    "model_calls",
    "one attempt at a call of a model",
    ("episode_id", "number"),
    (
        EPISODE_ID,
        KIND,
        ("number", "INTEGER", "number of the model call in its episode, from 0"),
        ("step", "INTEGER", "step that the first attempt at the call began"),
        ("attempt", "INTEGER", "number of the attempt, from 0"),
        ("model", "VARCHAR", "model that the answer names, or else the request"),
        (
            "dialect",
            "VARCHAR",
            "API of a call that was seen as an HTTP exchange: chat, responses, anthropic, gemini,"
            " ollama, bedrock, completions, embeddings or unknown; else NULL",
        ),
        ("tools", "JSON", "list of the names of the tools on offer; NULL if there are none"),
        ("n_messages", "INTEGER", "messages of the request"),
        ("parameters", "JSON", "plain arguments of the request: temperature, seed, ..."),
        ("answer", "JSON", "the answer; if `ep.model` recorded a stream, the list of its chunks"),
        ("finish_reason", "VARCHAR", "why the model stopped; NULL if unknown"),
        ("is_complete", "BOOLEAN", "whether the whole answer came; NULL if unknown"),
        (
            "input_tokens",
            "BIGINT",
            "tokens of the request, with those from a cache; NULL if the answer gives no count",
        ),
        ("output_tokens", "BIGINT", "tokens of the answer, with reasoning; NULL as above"),
        ("cached_tokens", "BIGINT", "tokens of the request from a cache; NULL as above"),
        ("cache_write_tokens", "BIGINT", "tokens that were written to a cache; NULL as above"),
        ("reasoning_tokens", "BIGINT", "tokens of the answer that are reasoning; NULL as above"),
        (
            "cost",
            "DOUBLE",
            "price that the answer gives, in the provider's currency; else by the prices that"
            " `trajrec.open` or `trajrec sql` was given; NULL if it is unknown",
        ),
        ("outcome", "VARCHAR", "ok, error or cancelled; open if log or episode ends before it"),
        ("status", "INTEGER", "HTTP status of the response; NULL if none came, or none was seen"),
        (
            "error_type",
            "VARCHAR",
            'class of the exception, or "http." and the status of a failure; NULL without one',
        ),
        ("message", "VARCHAR", "its message"),
        ("retry_by", "VARCHAR", "who retried; NULL if it is no retry"),
        (
            "latency_ms",
            "DOUBLE",
            "its duration, to the end of a stream; NULL if it is open, a time is unknown, or the"
            " clock was put back meanwhile",
        ),
        ("is_streamed", "BOOLEAN", "whether the answer was streamed"),
        (
            "is_reconstructed",
            "BOOLEAN",
            "whether its request was put together from a conversation that was imported",
        ),
        ("extra", "JSON", "facts of an imported record without a column; NULL if there are none"),
        ("started_at", "TIMESTAMP", "time of its start, UTC; NULL if unknown"),
    ),
)
MESSAGES = Table(
    "messages",
    "a message of a conversation with a model, once: a request repeats those before it",
    ("episode_id", "number"),
    (
        EPISODE_ID,
        KIND,
        ("number", "INTEGER", "number of the message in its episode, from 0"),
        (
            "model_call",
            "INTEGER",
            "number of the first model call that has it; NULL for one behind the last, which an"
            " imported record may have",
        ),
        ("step", "INTEGER", "step of that call; of no call, the step that would be next"),
        (
            "role",
            "VARCHAR",
            "system, user, assistant or tool (a result); another one stands as it is",
        ),
        (
            "origin",
            "VARCHAR",
            "answer if the model said it in this episode, as far as it came; else request",
        ),
        ("tool", "VARCHAR", "of a result, the tool; NULL if unknown"),
        (
            "call_ids",
            "JSON",
            "list of the ids of the calls that it asks for; of a result, of the one that it answers",
        ),
        ("digest", "VARCHAR", "BLAKE2b-128 of the message as JSON: equal for equal messages"),
        ("n_chars", "INTEGER", "characters of its whole text"),
        (
            "text",
            "VARCHAR",
            "first 4,000 characters of its text, without images, reasoning and tool calls;"
            " `corpus.episode(id).messages` has it whole",
        ),
    ),
)
SIDE_EFFECTS = Table(
    "side_effects",
    "a value that entered from outside the program: clock, random, network",
    ("episode_id", "number"),
    (
        EPISODE_ID,
        KIND,
        ("number", "INTEGER", "number of the side effect in its episode, from 0"),
        ("step", "INTEGER", "step at which it entered; -1 before the first"),
        ("name", "VARCHAR", "name that the program gave it"),
        ("arguments", "JSON", "its arguments"),
        ("value", "JSON", "the value; NULL if an exception was raised"),
        ("error_type", "VARCHAR", "class of the exception; NULL if there was none"),
        ("is_redacted", "BOOLEAN", "whether secrets were removed from it"),
        ("entered_at", "TIMESTAMP", "time at which it entered, UTC; NULL if unknown"),
    ),
)

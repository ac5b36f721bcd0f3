#!/bin/sh
# An agent in the shell: two questions by curl, the second one streamed.
set -e
ask() {
  curl -sS -N --fail-with-body "$ANTHROPIC_BASE_URL/v1/messages" \
    -H "content-type: application/json" -H "x-api-key: $ANTHROPIC_API_KEY" -d "$1"
}
ask '{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "one"}]}'
echo
ask '{"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "two"}]}'

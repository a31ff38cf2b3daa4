"""An unmodified OpenAI client against a node: models, completions, chats, streams, errors."""

import argparse

import openai

parser = argparse.ArgumentParser()
parser.add_argument("--base-url", required=True)
client = openai.OpenAI(base_url=parser.parse_args().base_url, api_key="none")

models = {model.id for model in client.models.list()}
assert {"digits", "pydoc"} <= models, models

prompt = "The with statement"
whole = client.completions.create(model="pydoc", prompt=prompt, max_tokens=20, temperature=0)
assert whole.object == "text_completion" and whole.choices[0].text, whole
assert whole.usage.completion_tokens <= 20
verification = whole.model_extra["verification"]
assert verification["claim_digest"].startswith("0x"), verification
assert verification["sampling"]["temperatureQ16"] == 0, verification

messages = [
    {"role": "system", "content": "Answer shortly."},
    {"role": "user", "content": "What is a list?"},
]
chat = client.chat.completions.create(model="pydoc", messages=messages, max_tokens=24, temperature=0)
text = chat.choices[0].message.content
assert chat.choices[0].message.role == "assistant" and text, chat

pieces, last, usage = [], None, None
stream = client.chat.completions.create(
    model="pydoc", messages=messages, max_tokens=24, temperature=0, stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.usage:
        usage = chunk.usage
    if chunk.choices:
        pieces.append(chunk.choices[0].delta.content or "")
        last = chunk
assert "".join(pieces) == text, (pieces, text)
assert last.choices[0].finish_reason == chat.choices[0].finish_reason
hashes = [answer.model_extra["verification"]["output_hash"] for answer in (chat, last)]
assert hashes[0] == hashes[1], hashes
assert usage.total_tokens == chat.usage.total_tokens, usage

# Drawn with a seed: its settings come back in the sampler's own numbers.
drawn = client.chat.completions.create(
    model="pydoc", messages=messages, max_tokens=24, temperature=0.7, top_p=0.95, seed=7,
)
sampling = drawn.model_extra["verification"]["sampling"]
assert (sampling["temperatureQ16"], sampling["topPQ16"]) == (45875, 62259), sampling
assert drawn.model_extra["verification"]["entropy"] == "0x" + f"{7:064x}"

# vLLM's fields beside OpenAI's.
narrow = client.chat.completions.create(
    model="pydoc", messages=messages, max_tokens=24, temperature=0.7, seed=7,
    extra_body={"min_p": 0.05, "repetition_penalty": 1.1, "top_k": 40},
)
sampling = narrow.model_extra["verification"]["sampling"]
assert (sampling["minPQ16"], sampling["repetitionQ16"], sampling["topK"]) == (3277, 72090, 40), sampling
assert not {"minPQ16", "repetitionQ16"} & drawn.model_extra["verification"]["sampling"].keys()

# Log probabilities, whole and in pieces, in both shapes; the tokens stay what they were.
odds = dict(model="pydoc", messages=messages, max_tokens=24, temperature=0, logprobs=True, top_logprobs=3)
told = client.chat.completions.create(**odds).choices[0]
assert told.message.content == text, told
content = told.logprobs.content
assert all(len(entry.top_logprobs) == 3 for entry in content), content
assert all(entry.top_logprobs[0].logprob == entry.logprob <= 0 for entry in content), "greedy"
pieces = []
for chunk in client.chat.completions.create(stream=True, **odds):
    if chunk.choices and chunk.choices[0].logprobs:
        pieces += chunk.choices[0].logprobs.content
assert pieces == content, (pieces, content)
told = client.completions.create(model="pydoc", prompt=prompt, max_tokens=20, temperature=0, logprobs=2)
told = told.choices[0].logprobs
assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == whole.usage.completion_tokens
assert all(max(top.values()) == own for top, own in zip(told.top_logprobs, told.token_logprobs)), told

# A stop text over several tokens: the text ends before it, whole and in pieces, the claim holds it.
stop = text[len(text) // 3 : len(text) // 3 + 9]
assert len(stop) == 9, text
before = text[: text.index(stop)]
stopping = dict(model="pydoc", messages=messages, max_tokens=24, temperature=0, stop=[stop, "never said"])
cut = client.chat.completions.create(**stopping)
assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (before, "stop"), (cut, stop)
assert cut.usage.completion_tokens < chat.usage.completion_tokens
assert stop in cut.model_extra["verification"]["sampling"]["stopTexts"], cut
pieces = []
for chunk in client.chat.completions.create(stream=True, **stopping):
    if chunk.choices:
        pieces.append(chunk.choices[0].delta.content or "")
        last = chunk
assert "".join(pieces) == before and last.choices[0].finish_reason == "stop", (pieces, stop)

# A stream that is left early.
stream = client.completions.create(model="pydoc", prompt=prompt, max_tokens=500, stream=True)
next(iter(stream))
stream.close()

for wrong in (dict(n=2), dict(stop=""), dict(stop="a" * 257), dict(stop=[c * 40 for c in "abcde"]), dict(logprobs=True, top_logprobs=21), dict(max_tokens=100_000), dict(temperature=200.0)):
    try:
        client.chat.completions.create(model="pydoc", messages=messages, **wrong)
    except openai.BadRequestError as error:
        assert error.code in ("unsupported_parameter", "bad_field", "input_too_large", "sampling_invalid"), error
    except openai.APIStatusError as error:
        assert error.status_code == 413, error
    else:
        raise AssertionError(f"{wrong} was taken")
try:
    client.chat.completions.create(model="nobody", messages=messages)
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
else:
    raise AssertionError("a model that is not there answered")
print("ok")

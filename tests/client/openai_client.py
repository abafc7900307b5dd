#!/usr/bin/env python3
"""Talks to a running router with OpenAI's own client library. usage: openai_client.py URL [MODEL]"""
import sys
import unittest

import openai

URL = sys.argv.pop(1)
CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
MODEL = sys.argv.pop(1) if len(sys.argv) > 1 else CLIENT.models.list().data[0].id
HELLO = [{"role": "user", "content": "Tell me about the sea, please."}]


def chat(**more):
    return CLIENT.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 24, **more})


class Chat(unittest.TestCase):
    def test_an_answer_has_text_and_usage(self):
        answer = chat(temperature=0)
        choice = answer.choices[0]
        self.assertEqual(choice.message.role, "assistant")
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertTrue(choice.message.content)
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertLessEqual(answer.usage.completion_tokens, 24)

    def test_a_stream_spells_the_same_answer(self):
        whole = chat(temperature=0)
        chunks = list(chat(temperature=0, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        self.assertEqual(reasons, [whole.choices[0].finish_reason])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len({c.id for c in chunks}), 1)

    def test_n_answers_are_those_of_consecutive_seeds(self):
        both = chat(n=2, seed=7, temperature=1)
        self.assertEqual(sorted(c.index for c in both.choices), [0, 1])
        by_index = {c.index: c.message.content for c in both.choices}
        self.assertEqual(by_index[0], chat(seed=7, temperature=1).choices[0].message.content)
        self.assertEqual(by_index[1], chat(seed=8, temperature=1).choices[0].message.content)
        self.assertNotEqual(by_index[0], by_index[1])

    def test_n_answers_stream_side_by_side(self):
        texts = {0: "", 1: "", 2: ""}
        for chunk in chat(n=3, seed=3, temperature=1, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        whole = chat(n=3, seed=3, temperature=1)
        self.assertEqual(texts, {c.index: c.message.content for c in whole.choices})

    def test_a_seed_repeats_an_answer(self):
        first = chat(seed=1234, temperature=1).choices[0].message.content
        self.assertEqual(first, chat(seed=1234, temperature=1).choices[0].message.content)
        others = {chat(seed=s, temperature=1).choices[0].message.content for s in range(4)}
        self.assertGreater(len(others), 1)

    def test_a_stop_string_ends_and_is_not_sent(self):
        text = chat(temperature=0).choices[0].message.content
        middle = len(text) // 2
        stop = text[middle:middle + 2]
        cut = text[:text.index(stop)]
        answer = chat(temperature=0, stop=[stop]).choices[0]
        self.assertEqual(answer.message.content, cut)
        self.assertEqual(answer.finish_reason, "stop")
        streamed = "".join(c.choices[0].delta.content or "" for c in chat(temperature=0, stop=stop, stream=True))
        self.assertEqual(streamed, cut)

    def test_logprobs_describe_each_token(self):
        answer = chat(temperature=0, logprobs=True, top_logprobs=3)
        entries = answer.choices[0].logprobs.content
        self.assertGreater(len(entries), 0)
        for entry in entries:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertAlmostEqual(entry.top_logprobs[0].logprob, entry.logprob, places=4)
        said = b"".join(bytes(entry.bytes or b"") for entry in entries)
        self.assertTrue(said.decode("utf-8", "replace").startswith(answer.choices[0].message.content[:4]))

    def test_the_same_prompt_again_comes_from_the_cache(self):
        message = [{"role": "user", "content": "A long enough prompt to fill more than one block of tokens. " * 3}]
        first = chat(messages=message, temperature=0)
        second = chat(messages=message, temperature=0)
        self.assertGreaterEqual(second.usage.prompt_tokens_details.cached_tokens, 16)
        self.assertEqual(second.usage.prompt_tokens_details.cached_tokens % 16, 0)
        self.assertEqual(first.choices[0].message.content, second.choices[0].message.content)
        salted = chat(messages=message, temperature=0, extra_body={"cache_salt": "somebody else"})
        self.assertEqual(salted.usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(first.choices[0].message.content, salted.choices[0].message.content)

    def test_harmless_parameters_are_accepted(self):
        chat(user="me", store=False, metadata={"a": "b"}, service_tier="auto", presence_penalty=0, tools=openai.NOT_GIVEN)

    def test_max_tokens_bounds_the_answer(self):
        answer = chat(max_tokens=3, extra_body={"ignore_eos": True})
        self.assertEqual(answer.usage.completion_tokens, 3)
        self.assertEqual(answer.choices[0].finish_reason, "length")


class Completions(unittest.TestCase):
    def complete(self, **more):
        return CLIENT.completions.create(**{"model": MODEL, "prompt": "The sea is", "max_tokens": 8, "temperature": 0, **more})

    def test_text_and_its_token_ids_give_the_same_continuation(self):
        import json
        import urllib.request
        body = json.dumps({"model": MODEL, "prompt": "The sea is"}).encode()
        request = urllib.request.Request(f"{URL}/tokenize", body, {"content-type": "application/json"})
        ids = json.load(urllib.request.urlopen(request))["tokens"]
        self.assertEqual(self.complete().choices[0].text, self.complete(prompt=ids).choices[0].text)

    def test_echo_repeats_the_prompt(self):
        plain, echoed = self.complete(), self.complete(echo=True)
        self.assertEqual(echoed.choices[0].text, "The sea is" + plain.choices[0].text)

    def test_logprobs_align_with_tokens(self):
        logprobs = self.complete(logprobs=2).choices[0].logprobs
        self.assertEqual(len(logprobs.tokens), len(logprobs.token_logprobs))
        self.assertEqual(len(logprobs.tokens), len(logprobs.text_offset))
        self.assertTrue(all(value <= 0 for value in logprobs.token_logprobs))

    def test_echoed_logprobs_begin_with_none(self):
        answer = self.complete(echo=True, logprobs=0).choices[0].logprobs
        self.assertIsNone(answer.token_logprobs[0])
        self.assertTrue(all(value is not None and value <= 0 for value in answer.token_logprobs[1:]))

    def test_several_prompts_give_as_many_choices(self):
        answer = self.complete(prompt=["The sea is", "The sun is"])
        self.assertEqual([c.index for c in answer.choices], [0, 1])
        self.assertEqual(answer.choices[0].text, self.complete().choices[0].text)

    def test_a_stream_spells_the_same_text(self):
        text = "".join(c.choices[0].text for c in self.complete(stream=True))
        self.assertEqual(text, self.complete().choices[0].text)


class Errors(unittest.TestCase):
    def test_an_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            chat(model="gpt-none")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_a_parameter_out_of_range_is_named(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            chat(temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")

    def test_an_unknown_parameter_is_refused_with_its_nearest_name(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            chat(extra_body={"temprature": 1})
        self.assertIn("temperature", str(caught.exception))

    def test_an_unsupported_parameter_is_refused_by_name(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})
        self.assertIn("response_format", str(caught.exception))

    def test_a_prompt_beyond_the_context_is_refused(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            chat(messages=[{"role": "user", "content": "sea " * 50_000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_an_error_in_a_stream_has_a_true_status(self):
        with self.assertRaises(openai.BadRequestError):
            list(chat(stream=True, top_p=2))


if __name__ == "__main__":
    unittest.main()

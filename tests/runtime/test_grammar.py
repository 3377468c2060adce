"""What a grammar does not allow is not said, by a real model."""

from __future__ import annotations

import json
from pathlib import Path

from fledge.data.facts import Fact
from fledge.data.synth import asking
from fledge.data.synth.material import Side, Source, gather
from fledge.records import Message
from fledge.runtime.llama import Llama, Sampling


def test_the_grammars_of_both_requests_hold(starter_gguf: Path) -> None:
    fact = gather([], [Fact("The lamp is red.", "f:1", questions=("What colour is the lamp?",))])
    passage = gather([], passages=[Source("p", "The lamp is red.", "p:1")])
    with Llama(starter_gguf, parallel=2, context_tokens=1024) as llama:
        for material in (fact, passage):
            asked = asking.request(material, material.sources[0], Side.TRAIN, 0, teacher="t", avoid=(), count=2)
            words = [Message("user", asked.prompt)]
            held = llama.chat(words, sampling=Sampling(1.0, max_tokens=700, grammar=asked.grammar))
            (rows,) = json.loads(held.text).values()
            assert len(rows) == 2
            if asked.fields != ("question",):
                assert all(list(row) == list(asked.fields) for row in rows)
        loose = llama.chat(words, sampling=Sampling(1.0, max_tokens=12))
        assert not loose.text.startswith('{"rows": ["'), "without the grammar the same model says something else"

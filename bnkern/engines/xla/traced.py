"""A checked Call on traced arrays, by the rules."""

from __future__ import annotations

from bnkern._call import NORMALISE, STATS, Call, Results
from bnkern.engines.xla import backward, choice, forward, rules
from bnkern.engines.xla.passes import alike, in_shard_map


def run(call: Call) -> Results:
    a = alike(dict(call.operands()))
    static = rules.Static(call.problem, manual=in_shard_map(), path=choice.path())
    if call.passes & STATS:
        found = (forward.train if call.passes & NORMALISE else forward.statistics)(static, a)
        return found.get("y"), found["mean"], found["var"], None, None, None
    if call.passes & NORMALISE:
        return forward.inference(static, a), None, None, None, None, None
    known = type(call.count) is int
    static = static._replace(
        passes=call.passes, needs=call.needs, frozen=call.frozen, whole=call.count if known else 0
    )
    found = backward.backward_passes(static, a if known else a | {"count": call.count})
    return found.get("dx"), None, None, found.get("sum_dy"), found.get("sum_dy_xhat"), found.get("dresidual")

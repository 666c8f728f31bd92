"""The referee: one number per seed, or one outcome per example, goes in, and a verdict comes out. See GUIDE.md.

from questions.scores import decide
answer = decide({"ours": [3.2791, 3.2778, 3.2787], "baseline": [3.2801, 3.2799, 3.2790]}, better="lower")
print(answer)
"""

from questions.scores.samples import decide_samples
from questions.scores.verdicts import decide

__all__ = ["decide", "decide_samples"]

"""The one place that validates calls: nothing has been written when a check fails.

problem: x, axis, eps, activation. operands: the arrays beside x. parameters: what is
neither. calls: a whole call of each function on x. vectors: the calls without x.
"""

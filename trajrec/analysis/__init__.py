"""Analyses of a corpus: bands, comparisons of runs, agreement of checks, and the release card.

Every analysis works on the SQL tables of a corpus. One row is one fresh rollout graded by one named
check, the unit is the task, no number comes without its interval, and unknown never equals unknown.
"""

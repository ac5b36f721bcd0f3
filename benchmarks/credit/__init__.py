"""Credit measured against problems with exact answers: P1 to P11, and the quality of estimators.

The exact answers come from dynamic programming or enumeration. Some criteria compare with the
bisection of OmegaPRM, with differences of values, and with the figures that an earlier implementation reached.
"""

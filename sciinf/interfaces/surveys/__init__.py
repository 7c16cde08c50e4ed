"""Answers to any number of observations: a folder of blocks, which grows until all observations are answered."""

from sciinf.interfaces.surveys.answers import Answers, load_answers
from sciinf.interfaces.surveys.asking import query_all

__all__ = ["Answers", "load_answers", "query_all"]

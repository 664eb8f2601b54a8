"""Experiments on rated photos: what to compare the method with, and the tables that come out."""

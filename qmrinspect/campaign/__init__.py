"""Campaigns
---------

A hunt of many jobs: planned, spread over processes or a cluster, kept, compared.
"""

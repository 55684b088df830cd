"""Report
------

How what was found is shown: text, pages, pictures, JUnit.
"""

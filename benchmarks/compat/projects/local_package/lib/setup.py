from setuptools import setup

setup(name="textstats", version="1.0", py_modules=["textstats"])

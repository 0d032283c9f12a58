"""Packaging of carrot."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Read, not imported: building carrot needs none of its dependencies.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "carrot/__init__.py").read_text(), re.M)[
    1
]

EXTRAS = {
    "fast": ["orjson>=3.9"],
    "msgpack": ["msgpack>=1.0"],
    "django": ["Django>=4.2"],
    "docs": ["Sphinx>=8", "furo"],
    # Pinned: another formatter, or a type checker that knows more, is a change
    # of its own.
    "lint": ["ruff==0.17.*", "mypy==2.4.*", "types-PyYAML"],
}
EXTRAS["test"] = [
    *(EXTRAS["fast"] + EXTRAS["msgpack"] + EXTRAS["django"] + EXTRAS["docs"]),
    "pytest>=8",
    "pytest-randomly",  # each run in another order
    "pytest-timeout",  # no test hangs the run
    "hypothesis>=6.100",  # properties; the state machines
    "coverage>=7.10",  # measures subprocesses and forks, too
    "cryptography>=42",  # certificates for the TLS tests
    # Clients that nobody here wrote: interoperability, and the benchmark.
    "kombu>=5.4",
    "pika>=1.3",
    "AMQPStorm>=2.10",
    "rabbitpy>=3.0; python_version >= '3.11'",
]

setup(
    name="carrot",
    version=VERSION,
    description="Messaging for Python: publish and consume with RabbitMQ, or in memory",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="The Carrot developers",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    keywords="AMQP RabbitMQ messaging queue publish consume",
    packages=find_packages(include=["carrot", "carrot.*"]),
    package_data={"carrot": ["py.typed"]},
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=["amqp>=5.3,<6", "PyYAML>=6.0"],
    extras_require=EXTRAS,
    entry_points={"pytest11": ["carrot = carrot.testing.plugin"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Django",
        "Framework :: Pytest",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
)

"""``palquant package`` from the outside: files, report, and one line for each mistake."""

import json

import pytest

from palquant.cli import main
from palquant.golden.config import NetworkConfig
from palquant.hw.config import geometry
from palquant.hw.ip_package import FILES, PART

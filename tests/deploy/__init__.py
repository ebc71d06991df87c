"""Tests of deploy/: validate the files, compare them with the code, and start servers with them."""

"""The tests, in the same tree as what they test; helpers are in support. Set up before anything imports torch."""

from pretrain.launch.environment import set_environment

set_environment()

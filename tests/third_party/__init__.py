"""Plug-ins written as a third party would write them: on the public names alone."""

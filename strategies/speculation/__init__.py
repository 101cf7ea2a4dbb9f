"""Samples made by a draft and a target model together: what such strategies share."""

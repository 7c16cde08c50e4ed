"""Figures of the report: functions that take plain data and return matplotlib Figures, without pyplot."""

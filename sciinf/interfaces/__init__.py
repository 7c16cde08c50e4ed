"""What people and programs meet: questions and answers, commands, figures, the report, the service, exports,
surveys.
"""

"""The foundation of every layer.

types.py, verdict.py                 problems, responses, attempts and verdicts
schema.py                            the columns of all rows
storage.py, uris.py, secrets.py      folders, locations, and secrets kept out of them
errors.py                            the ways a command ends early
prompt_templates.py                  the default prompts and phrases
latex.py, durations.py               small parsers
streams.py                           Python's stderr apart from file descriptor 2
playground_paths.py                  the playground's files in the package
"""

"""The policy: which model it is, where its files come from, and how it turns messages into tokens.

model_location.py  the places that a model comes from: the playground, a folder, an object store or the Hub
model_files.py     the files of a model: safetensors only, and downloads from an object store
hub_models.py      the commit and the files of a Hub model
model_access.py    a check that this machine can read a model
chat.py            messages to tokens, and the token that ends a turn
chat_templates.py  checks of a chat template with the messages that a run sends
rendered_prompts.py  prompts as tokens, each rendered once
example_tokens.py  EXAMPLE rows to tokens
"""

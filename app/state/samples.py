"""The prompts a fresh window offers. Both shipped models continue the text; chat models answer the message."""

TEXT = "Once upon a time, a lighthouse keeper named Mara"
MESSAGE = "Explain in three sentences why the sea is salty."

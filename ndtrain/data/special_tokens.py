"""The tokens that Qwen3 reserves and ndtrain needs, by their text."""

END_OF_TEXT = "<|endoftext|>"  # ends a document
IM_START = "<|im_start|>"  # begins a chat message
IM_END = "<|im_end|>"  # ends a chat message
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)

"""Models of the study beside GPT, SmeLU, and code of one's own."""

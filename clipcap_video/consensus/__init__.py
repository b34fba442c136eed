"""Which of a captioner's own captions people would most agree on."""

"""The local page on which a video is dropped: what it knows (`library`) and how it looks (`page`, on Gradio)."""

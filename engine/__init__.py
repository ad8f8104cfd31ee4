"""Sessions, pages, scheduling and the denoise loop; knows nothing of HTTP, Redis or video encoding."""

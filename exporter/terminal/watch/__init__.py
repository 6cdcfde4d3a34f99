"""`knock-exporter watch`: what is watched and what follows from it, who is asked, and what is shown and written."""

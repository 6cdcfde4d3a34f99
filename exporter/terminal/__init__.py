"""What a person sees in a shell."""

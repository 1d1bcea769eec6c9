"""What is learned on the frozen CLIP; the contract is in `sotglp`."""

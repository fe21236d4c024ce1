"""Answers predictions: routes them to the replicas of the deployments, by the last route table it was given."""

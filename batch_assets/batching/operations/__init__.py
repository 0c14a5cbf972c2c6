"""What the user does beside the assets: `cancel` stops a day, `prune` compresses and deletes what old days no
longer need.
"""

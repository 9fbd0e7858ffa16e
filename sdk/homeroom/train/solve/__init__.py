"""Heads solved in closed form from statistics; numpy and float64, one module a kind of task.

What a head is solved from adds up over schools (Fani et al. 2024, Fed3R, arXiv 2402.05437; He et al. 2025, AFL, arXiv
2405.16240); class means and a shared covariance are such sums (Beitollahi et al. 2025, FedCOF, arXiv 2412.14326).
"""

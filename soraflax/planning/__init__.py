"""Plans for TPU pods that are not attached: memory, traffic and time of a train step.

`step_plan.plan_step` compiles the step of training ahead of time for a named topology
and analyses the program; `search.search` looks for a better mesh, remat policy and
number of rows.
"""

"""`python -m weighted_freezing_fairseq.hydra_train`: fairseq-hydra-train that knows this package's own settings.

fairseq-hydra-train checks a YAML before it loads --user-dir, and refuses `common: {log_importance: 200}` there. Here
the package is registered first. Left out on purpose: anything else.
"""

FIRST_UPDATE = "the first update since the start is made"  # the trainer logs it, and a recipe waits for it

if __name__ == "__main__":
    from weighted_freezing_fairseq import register

    register()  # before the import, which warns of what a mend hides
    from fairseq_cli.hydra_train import cli_main

    cli_main()

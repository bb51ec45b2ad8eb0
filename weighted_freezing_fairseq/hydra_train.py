"""`python -m weighted_freezing_fairseq.hydra_train`: fairseq-hydra-train with this package registered first.

fairseq-hydra-train checks a YAML before it loads --user-dir, and refuses `common: {log_importance: 200}`.
"""

FIRST_UPDATE = "the first update since the start is made"  # logged by the trainer; recipes wait for this line

if __name__ == "__main__":
    from weighted_freezing_fairseq import register

    register()  # before the import, which logs warnings that a mend hides
    from fairseq_cli.hydra_train import cli_main

    cli_main()

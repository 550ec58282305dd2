"""What is submitted: plan, dispatch, account, publish. Jobs decide; workers do."""

# Included by the Makefile of the project, which sets CARGO.

.PHONY: abi
abi: ## write the baseline of the binary interface anew, with abidw
	LIBIPC_WRITE_ABI=1 $(CARGO) test --locked --test installed -- interface_equals_the_baseline

// TensorRT's expressions of sizes, which only libnvinfer has -> trees that are written out and evaluated.
#ifndef NMK_HARNESS_EXPRESSIONS_H
#define NMK_HARNESS_EXPRESSIONS_H

#include <NvInferRuntime.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace harness {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

// A constant, an open size (its place in a table of sizes), or an operation on two others.
class Expression final : public IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
  public:
    explicit Expression(int64_t value) : value_(value), text_(std::to_string(value)) { mImpl = this; }
    Expression(int place, const char* name) : place_(place), text_(name) { mImpl = this; }
    Expression(DimensionOperation operation, const Expression& first, const Expression& second)
        : operation_(operation), first_(&first), second_(&second) {
        static const char* const signs[] = {"+", "*", "max", "min", "-", "==", "<", "/", "/^"};
        text_ = "(" + first.text_ + " " + signs[static_cast<int>(operation)] + " " + second.text_ + ")";
        mImpl = this;
    }

    const std::string& text() const { return text_; }

    int64_t at(const int64_t* sizes) const {
        if (place_ >= 0) return sizes[place_];
        if (!first_) return value_;
        const int64_t a = first_->at(sizes), b = second_->at(sizes);
        const int64_t floor = b ? a / b - (a % b != 0 && (a < 0) != (b < 0)) : 0;
        switch (operation_) {
            case DimensionOperation::kSUM: return a + b;
            case DimensionOperation::kPROD: return a * b;
            case DimensionOperation::kMAX: return std::max(a, b);
            case DimensionOperation::kMIN: return std::min(a, b);
            case DimensionOperation::kSUB: return a - b;
            case DimensionOperation::kEQUAL: return a == b;
            case DimensionOperation::kLESS: return a < b;
            case DimensionOperation::kFLOOR_DIV: return floor;
            case DimensionOperation::kCEIL_DIV: return b ? floor + (a % b != 0) : 0;
        }
        return 0;
    }

  private:
    bool isConstant() const override { return place_ < 0 && !first_; }
    int64_t getConstantValue() const override {
        return place_ < 0 && !first_ ? value_ : std::numeric_limits<int64_t>::min();
    }
    bool isSizeTensor() const override { return false; }

    int place_ = -1;
    int64_t value_ = 0;
    DimensionOperation operation_{};
    const Expression *first_ = nullptr, *second_ = nullptr;
    std::string text_;
};

// Keeps all that it made until it goes.
class Builder final : public nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
  public:
    Builder() { mImpl = this; }

    const Expression* open(int place, const char* name) { return keep(new Expression(place, name)); }
    const IDimensionExpr* constant(int64_t value) override { return keep(new Expression(value)); }

  private:
    const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                    const IDimensionExpr& second) override {
        return keep(new Expression(operation, static_cast<const Expression&>(first),
                                   static_cast<const Expression&>(second)));
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
    const Expression* keep(Expression* made) {
        kept_.emplace_back(made);
        return made;
    }

    std::vector<std::unique_ptr<Expression>> kept_;
};

}  // namespace harness

#endif  // NMK_HARNESS_EXPRESSIONS_H
